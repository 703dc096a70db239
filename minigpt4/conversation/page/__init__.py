"""The web page: a dialogue about pictures with a model that is built meanwhile."""
