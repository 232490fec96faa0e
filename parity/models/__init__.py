"""What is computed: one short file an architecture, over shared layers. Knows no device, no engine and no file format."""
