"""Your own room: a model, corpus, loss, metric, callback and parameter groups to start from."""
