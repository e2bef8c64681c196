"""The commands of `engine.cli`: each module declares its own (`register`) and runs them."""
