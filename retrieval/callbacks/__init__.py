"""What is logged, averaged, judged and guarded while training, and how it is stopped."""

from retrieval.callbacks.averaging import AveragedWeights as AveragedWeights
from retrieval.callbacks.bar import Bar as Bar
from retrieval.callbacks.clock import Clock as Clock
from retrieval.callbacks.ends import FirstAndLast as FirstAndLast
from retrieval.callbacks.exponent import PoolingExponent as PoolingExponent
from retrieval.callbacks.guard import Guard as Guard
from retrieval.callbacks.judging import Evaluate as Evaluate
from retrieval.callbacks.judging import HeldOut as HeldOut
from retrieval.callbacks.loggers import WandbLogger as WandbLogger
from retrieval.callbacks.preemption import Preemption as Preemption
from retrieval.callbacks.progress import Progress as Progress
from retrieval.callbacks.stages import Stages as Stages
from retrieval.callbacks.stopwatch import Stopwatch as Stopwatch
from retrieval.callbacks.waiting import Waiting as Waiting
