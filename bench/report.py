from bench.results import Results


def write(results: Results) -> None: ...
