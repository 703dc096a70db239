"""The web page: a dialogue about pictures; it opens while the model is being built."""
