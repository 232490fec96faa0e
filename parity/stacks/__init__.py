"""Where it runs: a stack is a device, a table of kernels and a way for ranks to talk."""
