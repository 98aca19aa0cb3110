# make demo    train FACENet on synthetic scenes, evaluate it and draw its predictions (CPU, minutes)
# make test    run the tests
# make lint    check style and types
# make clean   remove everything that these commands created
#
# demo creates .venv first if it is missing or older than the files it is made from; test and lint
# also install the packages for development into it.
# PYTHON selects the interpreter, for example: make PYTHON=python3.12 test

PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check
DEMO_CONFIG = configs/synthetic/facenet_lite0_demo.yaml
DEMO_OUTPUT = output/facenet_lite0_demo

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

.venv/ready: pyproject.toml setup.py constraints.txt tools/install_detectron2.py
	$(PYTHON) tools/check_python.py
	$(PYTHON) -m venv --clear .venv
	$(PIP) install --quiet --constraint constraints.txt pip setuptools wheel
	@echo "Installing PyTorch (about a minute on a fast connection) ..."
	$(PIP) install --quiet --constraint constraints.txt torch torchvision
	.venv/bin/python tools/install_detectron2.py --constraint constraints.txt
	$(PIP) install --quiet --no-build-isolation --constraint constraints.txt --editable '.[lite0]'
	touch $@

.venv/dev: .venv/ready
	$(PIP) install --quiet --no-build-isolation --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/ready
	.venv/bin/python train_net.py --config-file $(DEMO_CONFIG)
	.venv/bin/python demo/demo.py --config-file $(DEMO_OUTPUT)/config.yaml \
	    --input "$${DETECTRON2_DATASETS:-datasets}"/synthetic_aerial_v1/val/images/0000*.png \
	    --output $(DEMO_OUTPUT)/overlays \
	    --opts MODEL.WEIGHTS $(DEMO_OUTPUT)/model_final.pth

# One thread per process: several processes with several threads each would only wait for each other.
test: .venv/dev
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

lint: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf .venv output datasets/synthetic_aerial_v* build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
