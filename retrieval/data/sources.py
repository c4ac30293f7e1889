"""Where the data sets and published networks come from: one entry each, data alone.

Addresses are those of the authors' own download scripts and pages, named at each entry. A checksum stands here only
where the authors publish one; of every other file the size alone is checked, against what the server announces, and
`download.prepare` notes the sha256 that it saw, so that two copies can be compared.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """A file and where it goes: into `to` below the set's folder, unpacked there if `unpack`.

    flat: the archive's files go straight into `to`, whatever folders they are in. md5_at: the address of a text whose
    first word is the file's md5.
    """

    url: str
    to: str = "."
    unpack: bool = False
    flat: bool = False
    md5_at: str | None = None

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Source:
    """The files of a set, which go below `root/folder`; `terms`: on what conditions it may be used.

    by_hand: what to do where no address serves the files any more; their `url` is then the name alone.
    """

    folder: str
    files: tuple[File, ...]
    terms: str
    by_hand: str | None = None


FLICKR = "the photos are Flickr's, see https://www.robots.ox.ac.uk/~vgg/data/{}/ for the terms of access"
CTU = "https://github.com/filipradenovic/cnnimageretrieval-pytorch says how to use and cite it"
GOOGLE = (
    "annotations CC BY 4.0; each photo has its own licence (index and test: CC0 or public domain, train: CC BY), "
    "see https://github.com/cvdfoundation/google-landmark"
)

# filipradenovic/revisitop, python/download.py (since June 2022 with blurred faces). No checksums are published for the
# images; the ground truth's texts are linked from the pages named in FLICKR. None is published for any file here.
VGG = "https://www.robots.ox.ac.uk/~vgg/data"
OXFORD = (File(f"{VGG}/oxbuildings/oxbuild_images-v1.tgz", "jpg", unpack=True, flat=True),)
PARIS = tuple(File(f"{VGG}/parisbuildings/paris_{part}-v1.tgz", "jpg", unpack=True, flat=True) for part in (1, 2))
REVISITED = "http://cmp.felk.cvut.cz/revisitop/data/datasets"

# The same script's `download_distractors`: 100 archives, counted from one, and the list of images. No checksums.
DISTRACTORS = "http://ptak.felk.cvut.cz/revisitop/revisitop1m"

# filipradenovic/cnnimageretrieval-pytorch: cirtorch/utils/download.py, cirtorch/examples/test.py. No checksums: seven
# hexadecimal digits end the networks' names, and nothing says of what they are.
CIRTORCH = "http://cmp.felk.cvut.cz/cnnimageretrieval/data"
NETWORKS = {
    "retrievalSfM120k-vgg16-gem": "retrieval-SfM-120k/retrievalSfM120k-vgg16-gem-b4dcdc6.pth",
    "retrievalSfM120k-resnet101-gem": "retrieval-SfM-120k/retrievalSfM120k-resnet101-gem-b80fb85.pth",
    "rSfM120k-tl-resnet50-gem-w": "retrieval-SfM-120k/rSfM120k-tl-resnet50-gem-w-97bf910.pth",
    "rSfM120k-tl-resnet101-gem-w": "retrieval-SfM-120k/rSfM120k-tl-resnet101-gem-w-a155e54.pth",
    "rSfM120k-tl-resnet152-gem-w": "retrieval-SfM-120k/rSfM120k-tl-resnet152-gem-w-f39cada.pth",
    "gl18-tl-resnet50-gem-w": "gl18/gl18-tl-resnet50-gem-w-83fdc30.pth",
    "gl18-tl-resnet101-gem-w": "gl18/gl18-tl-resnet101-gem-w-a4d43db.pth",
    "gl18-tl-resnet152-gem-w": "gl18/gl18-tl-resnet152-gem-w-21278d5.pth",
}

# cvdfoundation/google-landmark, README.md and download-dataset.sh. An md5 is published beside each archive; none for
# the tables.
LANDMARKS = "https://s3.amazonaws.com/google-landmark"


def _parts(split: str, count: int) -> tuple[File, ...]:
    names = [f"images_{i:03d}" for i in range(count)]
    beside = f"{LANDMARKS}/md5sum/{split}/md5"
    return tuple(
        File(f"{LANDMARKS}/{split}/{name}.tar", split, unpack=True, md5_at=f"{beside}.{name}.txt") for name in names
    )


def _tables(folder: str, *names: str) -> tuple[File, ...]:
    return tuple(File(f"{LANDMARKS}/{folder}/{name}.csv") for name in names)


SOURCES = {
    "roxford5k": Source(
        "roxford5k", (File(f"{REVISITED}/roxford5k/gnd_roxford5k.pkl"), *OXFORD), FLICKR.format("oxbuildings")
    ),
    "rparis6k": Source(
        "rparis6k", (File(f"{REVISITED}/rparis6k/gnd_rparis6k.pkl"), *PARIS), FLICKR.format("parisbuildings")
    ),
    "oxford5k": Source(
        "oxford5k",
        (File(f"{VGG}/oxbuildings/gt_files_170407.tgz", "gt", unpack=True, flat=True), *OXFORD),
        FLICKR.format("oxbuildings"),
    ),
    "paris6k": Source(
        "paris6k",
        (File(f"{VGG}/parisbuildings/paris_120310.tgz", "gt", unpack=True, flat=True), *PARIS),
        FLICKR.format("parisbuildings"),
    ),
    "revisitop1m": Source(
        "revisitop1m",
        (
            File(f"{DISTRACTORS}/revisitop1m.txt"),
            *(File(f"{DISTRACTORS}/jpg/revisitop1m.{part}.tar.gz", "jpg", unpack=True) for part in range(1, 101)),
        ),
        "the photos are Flickr's; https://github.com/filipradenovic/revisitop says how to use and cite them",
    ),
    "gldv2": Source(
        "gldv2",
        (
            *_tables("metadata", "index", "index_image_to_landmark", "index_label_to_category", "test"),
            *_tables("ground_truth", "retrieval_solution_v2.1", "recognition_solution_v2.1"),
            *_parts("test", 20),
            *_parts("index", 100),
        ),
        GOOGLE,
    ),
    "gldv2_train": Source(
        "gldv2",
        (
            *_tables("metadata", "train", "train_clean", "train_attribution", "train_label_to_category"),
            *_parts("train", 500),
        ),
        GOOGLE,
    ),
    # The page's own addresses: http://pascal.inrialpes.fr refuses (facebookresearch/vissl issue 541), and
    # ftp.inrialpes.fr answers now and then (fyang93/diffusion issue 11). No checksums are published.
    "holidays": Source(
        "holidays",
        (File("jpg1.tar.gz", unpack=True, flat=True), File("jpg2.tar.gz", unpack=True, flat=True)),
        "INRIA holds the copyright of the photos and asks to be cited",
        by_hand="INRIA Holidays must be fetched by hand: get jpg1.tar.gz and jpg2.tar.gz from "
        "https://lear.inrialpes.fr/people/jegou/data.php.html (or ftp://ftp.inrialpes.fr/pub/lear/douze/data/), "
        "put both into {folder} and run again; they are unpacked there",
    ),
    "sfm120k": Source(
        "sfm120k",
        (
            *(
                File(f"{CIRTORCH}/train/dbs/{name}.pkl")
                for name in ("retrieval-SfM-120k", "retrieval-SfM-120k-whiten", "retrieval-SfM-30k-whiten")
            ),
            File(f"{CIRTORCH}/train/ims/ims.tar.gz", "ims", unpack=True),
        ),
        CTU,
    ),
    **{name: Source("networks", (File(f"{CIRTORCH}/networks/{path}"),), CTU) for name, path in NETWORKS.items()},
}
