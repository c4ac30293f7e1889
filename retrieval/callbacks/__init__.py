"""What is logged, averaged, judged and kept while training, and how it is stopped."""

from retrieval.callbacks.averaging import AveragedWeights as AveragedWeights
from retrieval.callbacks.exponent import PoolingExponent as PoolingExponent
from retrieval.callbacks.judging import HeldOut as HeldOut
from retrieval.callbacks.loggers import WandbLogger as WandbLogger
from retrieval.callbacks.preemption import Preemption as Preemption
