"""Everything that needs torch: networks, the training loop, predictions, features.

Read in this order: `loop` (a run from beginning to end), then `models`, `loading`, `objective`, `evaluate`,
`frozen`, `checkpoint`. How each recipe is set stands in `engine.runs.presets`.
"""

import os

# Idle OpenMP threads spin by default, and on a machine that does anything else they spin away the cores: lite0
# predicted 7 images/s spinning and 16 sleeping, beside five other processes on two cores. Must be set before
# torch is imported, so it stands here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
