"""One BLAS thread, no progress bars: the same numbers and the same outputs on every run."""

import os


os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
