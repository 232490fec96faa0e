"""Models written in another form: GGUF or safetensors, packed or plain, and what that cost them."""
