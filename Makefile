.PHONY: studies-check check test format cards wheel release

check:  ## Everything that reads the code without running it
	ruff check
	ruff format --check
	mypy
	lint-imports

test:  ## The fast tests; `pytest -m slow` runs the others
	pytest

format:  ## Rewrite the code as `make check` wants it
	ruff check --fix
	ruff format

studies-check:  ## Compare the figures and pages of the studies with their results
	python -m train.studies.check

cards:  ## Render the model cards again from the records
	python -m train.publish --cards

wheel:  ## Build dist/*.whl
	python -m build --wheel

release:  ## Build sdist and wheel, try the wheel in an empty environment, say how to publish
	python -m train.release $(RELEASE)
