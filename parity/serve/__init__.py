"""HTTP: the OpenAI and Anthropic wire formats, metrics and the chat page, over any `core.service.Service`."""
