"""A server that speaks the chat part of OpenAI's protocol."""
