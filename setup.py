"""What pyproject.toml cannot say: `configs/` of the repository is `retrieval/configs` of the package."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["retrieval*", "hydra_plugins*"]), "retrieval.configs"],
    package_dir={"retrieval.configs": "configs"},
    package_data={"retrieval.configs": ["**/*.yaml"], "retrieval": ["**/*.html", "**/*.js", "**/*.md", "**/*.yaml"]},
    include_package_data=False,
)
