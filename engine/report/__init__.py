"""Reports: pure figures (table in, figure out) and self-contained pages."""
