"""Words to tokens and back: tokenizers, chat templates, incremental detokenising, and the dialects models answer in."""
