"""Images from anywhere, judged by a run or an ensemble: what is asked of a model once its study is over."""
