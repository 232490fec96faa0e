"""When it runs: scheduling, paged state, the step, sampling and the thread that steps."""
