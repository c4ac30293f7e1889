"""What is logged, judged and kept while training, and how it is stopped."""

from retrieval.callbacks.exponent import PoolingExponent as PoolingExponent
from retrieval.callbacks.judging import HeldOut as HeldOut
from retrieval.callbacks.loggers import WandbLogger as WandbLogger
from retrieval.callbacks.preemption import Preemption as Preemption
