"""What is measured: one module a benchmark, each subject a function of its size.

Every function runs in a process of its own (``benchmarks.call``), measures once,
checks that nothing was lost, and returns numbers.
"""
