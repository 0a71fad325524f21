"""Side by side with the peers a user would pick instead: one run, interleaved, as ratios.

`python -m benchmarks` runs everything and writes docs/BENCHMARKS.md; `python -m benchmarks imports losses` runs two.
"""
