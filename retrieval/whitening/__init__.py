"""Whitening fitted to descriptors."""

from retrieval.whitening.files import load as load
from retrieval.whitening.files import of_run as of_run
from retrieval.whitening.files import save as save
from retrieval.whitening.files import save_all as save_all
from retrieval.whitening.fit import eigen as eigen
from retrieval.whitening.fit import fit_learned as fit_learned
from retrieval.whitening.fit import fit_pca as fit_pca
from retrieval.whitening.methods import PCA as PCA
from retrieval.whitening.methods import Learned as Learned
from retrieval.whitening.methods import Published as Published
from retrieval.whitening.methods import from_config as from_config
from retrieval.whitening.start import initialise as initialise
