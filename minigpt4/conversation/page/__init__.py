"""The web page: a dialogue about pictures and videos; it opens while the model is being built."""
