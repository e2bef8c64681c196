"""What stays for the life of the server is left out of garbage collections.

Streamlit collects after every run of a script, every refresh of a live part included. Most of what a collection then
looks at are the objects of loaded modules, which never become garbage: 130,000 of pandas, plotly and our own, 75 ms
during which no other session gets the interpreter, and several times that once a page has loaded torch.
"""

from __future__ import annotations

import gc
import sys

# Modules come in hundreds, with the first page that needs pandas, plotly or torch: a server settles a few times and
# then never again.
GROWTH = 50
_modules = 0


def settle() -> bool:
    """Set aside what is alive, if many modules have been loaded since that was done last; for the end of a page.

    What was set aside before is looked at once more, so that no more than the garbage of one moment stays.
    """
    global _modules
    if len(sys.modules) < _modules + GROWTH:
        return False
    _modules = len(sys.modules)
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    return True
