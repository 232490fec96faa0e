"""The parts that exact checkpoints are put together from; `parity.verify.probes` is how they are used."""
