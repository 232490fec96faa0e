"""Is it the same model on the other stack? Sides are captured into packs; packs are compared level by level.

suite -> Side -> Recorder -> Pack A ─┐
suite -> Side -> Recorder -> Pack B ─┴-> levels -> findings -> verdict -> report
"""
