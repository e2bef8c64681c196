"""Analysis of stored predictions: scores, intervals, comparisons, ensembles. No torch."""
