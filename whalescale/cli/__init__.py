"""The commands of `ws`, one file a family."""

import gc

# What a command imports stays: looking for garbage in it costs a tenth of its start.
gc.set_threshold(100_000)
