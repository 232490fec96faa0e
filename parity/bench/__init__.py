"""How fast a model runs here, how near that is to the memory's limit, and how it compares with llama.cpp."""
