"""Is it the same model on the other stack? Sides are captured into packs; packs are compared level by level.

suite -> Side -> capture -> Pack A ─┐
suite -> Side -> capture -> Pack B ─┴-> comparison -> levels -> gates -> verdict -> report

suites       the prompts, as data
sides        who can be asked: a stack in this process, an endpoint
record       what is known of one side, and the plan that says what to ask
capture      asks a side for all of it
packs        what is known of one side as a file
comparison   two packs, prompt by prompt
levels       what is measured at each level
statistics   the mathematics of it
gates        thresholds (`gates.json`), and which measurement passes
verdict      the word, the cause, the exit code
outcome      two packs judged level by level
report       as a page and as JSON
run          all of it, from two names to an outcome; `settings` says how, `command` is the command line
exact        integer-valued checkpoints, on which every correct kernel gives the same bits
power        planted faults: how the verifier itself is verified
"""
