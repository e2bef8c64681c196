"""The engine: data, runs, training, explanations, analysis, reports. It knows no screen."""
