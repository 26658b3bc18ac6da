"""The guide: each page has its place, each picture its code, each name its entry, each link its end."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import re
import tomllib
from pathlib import Path

import pytest
from test_architecture import LEVELS

import bpengine as bp
from bpengine.cli import main
from bpengine.model.activations import ACTIVATIONS
from bpengine.model.costs import COSTS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}

pages = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(DOCS)) for page in PAGES])


def load(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figures = load("figures")


def blocks(text, name):
    """The contents of a page's directives of that name."""
    return re.findall(rf"^```{{{name}}}(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def test_every_page_is_in_one_table_of_contents():
    entries = [
        (page.parent / f"{line}.md").resolve()
        for page, text in TEXTS.items()
        for block in blocks(text, "toctree")
        for line in block.split("\n")[1:]
        if line and not line.startswith(":")
    ]
    assert sorted(entries) == [page for page in PAGES if page != DOCS / "index.md"]


def anchors(page):
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted(ROOT.glob("*.md"))], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_within_the_project_have_an_end(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and "_build/" not in target:
            path, _, anchor = target.partition("#")
            end = (page.parent / path).resolve() if path else page
            assert end.exists(), target
            if anchor and end.suffix == ".md":
                assert anchor in anchors(end)


@pages
def test_every_picture_is_made_by_the_code_of_its_page(page):
    shown = figures.PICTURE.findall(TEXTS[page])
    assert len(shown) == TEXTS[page].count("_build/")
    for of, name, kind in shown:
        assert of == page.stem
        made = rf"^>>> {name} = " if kind != "gif" else rf'^\.\.\. +"{name}\.gif",$'
        assert len(re.findall(made, TEXTS[page], flags=re.MULTILINE)) == 1
    assert not shown or sum(page.stem == other.stem for other in PAGES) == 1


def test_pictures_are_the_same_each_time(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "![](_build/figures/page/drawn.svg) ![](_build/figures/page/drawn.png)\n\n"
        "```python\n"
        ">>> from bpengine import plots\n"
        '>>> drawn = plots.throughput({"loop": ([1, 16], [5e3, 5e3])})\n\n'
        "```\n",
        encoding="utf-8",
    )
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        assert len(figures.pictures(page, folder)) == 2
    for name in ("drawn.svg", "drawn.png"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize(
    ("picture", "code", "message"),
    [
        ("page/drawn.svg", ">>> 1 + 1\n3", "Expected:\n    3\nGot:\n    2"),
        ("page/drawn.svg", ">>> other = 1", "shows page/drawn.svg, which its code does not make"),
        ("page/drawn.gif", ">>> drawn = 1", "shows page/drawn.gif, which its code does not make"),
        ("else/drawn.svg", ">>> drawn = 1", "shows else/drawn.svg, which its code does not make"),
    ],
)
def test_a_picture_that_is_not_made_is_an_error(tmp_path, picture, code, message):
    page = tmp_path / "page.md"
    page.write_text(f"![](_build/figures/{picture})\n\n{code}\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match=re.escape(message)):
        figures.pictures(page, tmp_path / "figures")


def test_the_chapter_of_the_equations_quotes_every_line_of_them():
    lines = (ROOT / "bpengine" / "backprop" / "equations.py").read_text(encoding="utf-8").splitlines()
    quoted = set()
    for block in blocks(TEXTS[DOCS / "tutorial" / "four-equations.md"], "literalinclude"):
        options = dict(re.findall(r"^:([\w-]+): *(.*)$", block, flags=re.MULTILINE))
        start, end = (options[key].strip("'\"") for key in ("start-at", "end-at"))
        first = next(i for i, line in enumerate(lines) if start in line)
        last = next(i for i, line in enumerate(lines) if i >= first and end in line)
        assert last - first <= 4
        quoted.update(range(first, last + 1))
    yielded = {i for i, line in enumerate(lines) if "yield " in line and "workspace.drop(" not in line}
    assert yielded <= quoted
    assert len(yielded) >= 8


def documented():
    """What the reference has an entry for, by its whole name."""
    found = set()
    for page, text in TEXTS.items():
        if page.parent.name == "reference":
            module = ""
            for kind, name in re.findall(r"^\.\. (?:py:)?(\w+):: ([\w.]+)$", text, flags=re.MULTILINE):
                if kind in ("currentmodule", "module", "automodule"):
                    module = name
                    found.add(name)
                else:
                    found.add(name if name.startswith("bpengine.") else f"{module}.{name}")
    return found


def home(module, name):
    """Under which whole names something may stand in the reference."""
    thing = getattr(module, name)
    places = [
        module.__name__,
        "bpengine",
        "bpengine.callbacks",
        "bpengine.datasets",
        "bpengine.book.network2",
    ]
    return {f"{place}.{name}" for place in places} | {getattr(thing, "__name__", "")}


@pytest.mark.parametrize(
    "module",
    [
        "",
        ".backends",
        ".book",
        ".callbacks",
        ".datasets",
        ".derivatives.gradient_check",
        ".estimators",
        ".plots",
        ".schedules",
        ".timing",
    ],
)
def test_the_reference_has_every_public_name(module):
    module = importlib.import_module(f"bpengine{module}")
    # other names of a type; what a plain function becomes; what finds a thing by its name
    inner = {"AnyArray", "Array", "Function", "resolve"}
    assert not {name for name in module.__all__ if not home(module, name) & documented()} - inner


@pytest.mark.parametrize("command", ["train mnist", "scale"])
def test_the_reference_has_every_option_of_the_command_line(command, capsys):
    with pytest.raises(SystemExit):
        main.main([*command.split(), "--help"])
    options = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)) - {"--help"}
    text = TEXTS[DOCS / "reference" / "command-line.md"]
    section = text.partition(f"\n## {command.split()[0]}\n")[2].partition("\n## ")[0]
    assert sorted(options) == sorted(re.findall(r"^\| `(--[a-z-]+)", section, flags=re.MULTILINE))


def test_the_picture_of_the_packages_shows_their_levels():
    picture = (DOCS / "_static" / "packages.svg").read_text(encoding="utf-8")
    levels: dict[int, set[str]] = {}
    for y, name in re.findall(r'<text class="name" x="\d+" y="(\d+)">(\w+)</text>', picture):
        levels.setdefault(int(y), set()).add(name.replace("bpengine", "__init__"))
    assert [levels[y] for y in sorted(levels)] == [level - {"legacy"} for level in LEVELS[1:]]
    text = TEXTS[DOCS / "design.md"]
    assert all(f"`{name}`" in text for level in LEVELS[2:] for name in level - {"legacy"})


def rows(page, until=None):
    """The rows of a page's tables: their first cells, and the others."""
    text = TEXTS[DOCS / page].partition(until)[0] if until else TEXTS[DOCS / page]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    return {name: others for name, *others in cells}


def test_figures_that_the_tutorial_quotes_are_those_of_the_benchmarks():
    measured, quoted = rows("benchmarks-core.md"), rows("tutorial/from-the-loop-to-the-plan.md")
    first = {name: [cell.split("*")[0] for cell in cells] for name, cells in measured.items()}
    for name in ("per-example loop", "batched NumPy", "products alone"):
        assert quoted[name] == first[name][:3]  # tiny, nielsen, small
    text = " ".join(TEXTS[DOCS / "tutorial" / "a-batch-as-columns.md"].split())
    matmul, einsum, loop = (
        first[name][2] for name in ("3-D stack, matmul", "3-D stack, einsum", "per-example loop")
    )
    assert f"takes {matmul} times as long as bpengine's; with `einsum`, {einsum} times." in text
    assert f"The loop over examples takes {loop} times as long" in text
    text = " ".join(TEXTS[DOCS / "tutorial" / "why-it-is-fast.md"].split())
    for name in ("tiny", "nielsen", "small", "medium"):
        assert rows("tutorial/why-it-is-fast.md")[name] == measured[name]
    differences = re.search(
        r"Finite differences ÷ backprop, .*?: ([\d.]+)", TEXTS[DOCS / "benchmarks-core.md"]
    )
    assert f"finite differences take {float(differences[1]):.0f} times as long" in text


def test_figures_that_the_page_on_when_to_use_quotes_are_those_of_the_benchmarks():
    core, peers, stacks = (rows(f"benchmarks-{page}.md") for page in ("core", "peers", "calls"))
    calls = rows("benchmarks-calls.md", until="| numba |")  # the first table
    norms = rows("benchmarks-per-example.md")
    fits = rows("benchmarks-estimators.md", until="\n| digits, 64-100-10 | 'auto' (200) | float32")
    epoch = rows("benchmarks-numba.md")

    def median(cell):
        return cell.split("*")[0]

    def inverse(cell):
        return f"{1 / float(median(cell)):.2f}"

    epochs = [
        float(median(epoch[name][0]))
        for name in ("JAX: scan over a shuffled epoch, gather included", "bpengine, NumPy")
    ]
    names = ["feedforward", "predict of MLPClassifier ÷ scikit-learn's"]
    names += ["feedforward ÷ JAX's", "feedforward ÷ PyTorch's"]
    steps = [core["batched NumPy"], *(peers[x] for x in ("scikit-learn", "JAX scan", "PyTorch eager"))]
    quoted = rows("when-to-use.md")
    assert quoted["prediction of 10 examples, 784-30-10"] == [inverse(calls[name][1]) for name in names]
    assert quoted["a training step of a plan, 784-30-10, batch 10"] == [median(x[1]) for x in steps]
    assert quoted["an epoch of `fit`, 784-30-10, batch 10"] == [
        inverse(calls["fit, one epoch"][1]),
        "–",
        f"{epochs[0] / epochs[1]:.2f}",
        "–",
    ]
    digits = fits["digits, 64-100-10"]
    assert quoted["`fit` of the digits by an estimator, 64-100-10"][1] == median(digits[2])
    assert quoted["a search over 12 candidates, 5 folds, 64-100-10"][1] == median(stacks["64-100-10"][0])
    assert quoted["an ensemble of 20 networks, 64-100-10"][1] == median(stacks["64-100-10"][3])
    assert quoted["norms of 128 gradients, 784-100-10"][2:] == [
        median(norms[f"{peer} and norms ÷ norms"][0])
        for peer in ("JAX, jit of vmap(grad)", "torch.func, vmap(grad)")
    ]


URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
ABOUT = [*ROOT.glob("*.md"), ROOT / "CITATION.cff", *ROOT.glob(".github/**/*.*"), *PAGES]


@pytest.mark.parametrize("path", ABOUT, ids=lambda path: str(path.relative_to(ROOT)))
def test_addresses_of_the_project_are_those_of_its_metadata_and_have_an_end(path):
    text = path.read_text(encoding="utf-8")
    guide, repository = URLS["Documentation"], URLS["Repository"]
    for address in re.findall(r"https://(?:github\.com|bpengine\.github\.io)/bpengine[^\s)\"'`]*", text):
        if address.startswith(guide):
            page, _, anchor = address.removeprefix(guide).strip("/").partition("#")
            end = DOCS / (page or "index.html").replace(".html", ".md")
            assert end in PAGES, address
            assert not anchor or anchor in anchors(end), address
        else:
            assert address.startswith(repository), address
            inside = address.removeprefix(repository).strip("/").removeprefix("blob/main/")
            assert inside.split("/")[0] in ("", "issues", "security") or (ROOT / inside).exists(), (
                address
            )


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_to_the_guide_lead_to_the_published_one(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.findall(r"\]\((docs/[^)]*\.md)", text)


def test_the_page_on_installing_has_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    section = TEXTS[DOCS / "installing.md"].partition("\n## Extras\n")[2].partition("\n## ")[0]
    names = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(names)) == sorted(
        project["optional-dependencies"], key=" ".join(names).index
    )


def test_names_for_keras_and_pytorch_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, labels = (array[..., :40] for array in bp.datasets.digits())
    net = bp.Network([64, 10], "softmax", "softmax_cross_entropy", rng=0)
    names = {"bp": bp, "X": X, "labels": labels, "net": net}
    keywords = {*inspect.signature(bp.Network).parameters, *inspect.signature(net.fit).parameters}
    strings = []
    text = TEXTS[DOCS / "from-keras-and-pytorch.md"]
    cells = re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
    for code in re.findall(r"`(.+?)`", " ".join(cells)):
        if keyword := re.fullmatch(r"(\w+)=.*", code):
            assert keyword[1] in keywords, code
        elif code[0] == '"':
            strings.append(code.strip('"'))
        elif re.search(r"\W", code):
            eval(code, names)
    assert sorted(strings) == sorted([*ACTIVATIONS, *COSTS])


FOLDERS = {"Code": ROOT / "bpengine", "Tests": ROOT / "tests", "Pages": ROOT}


@pytest.mark.parametrize("kind", FOLDERS)
def test_files_and_names_for_an_extension_exist(kind):
    text = TEXTS[DOCS / "extending.md"].partition("\n## Add one to the package\n")[2]
    entries = re.findall(rf"^- {kind}: (.*?)(?=\n- |\n\n)", text, flags=re.DOTALL | re.MULTILINE)
    assert len(entries) == text.count("\n### A new ")
    for entry in entries:
        found = [name for name in re.findall(r"`([\w./-]+\.\w+)`", entry) if name != "test_docs.py"]
        paths = [FOLDERS[kind] / name for name in found]
        assert all(path.exists() for path in paths), found
        text = "".join(path.read_text(encoding="utf-8") for path in paths)
        names = re.findall(r"`([A-Z_]{4,})`", entry)
        assert all(name in text for name in names), names


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name == "tutorial"], ids=lambda page: page.stem
)
def test_a_notebook_has_the_code_of_its_page(page):
    if page.stem == "index":
        return
    made = load("notebooks").notebook(page, "https://guide", "https://repository")
    code = [cell["source"] for cell in made["cells"] if cell["cell_type"] == "code"]
    examples = doctest.DocTestParser().get_examples(TEXTS[page])
    shown = [name for _, name, kind in figures.PICTURE.findall(TEXTS[page])]
    source = "\n".join(code)
    for example in examples:
        assert example.source.strip() in source
    assert all(name in code or f'"{name}.gif"' in source for name in shown)
    text = "\n".join(cell["source"] for cell in made["cells"] if cell["cell_type"] == "markdown")
    assert ".md" not in re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert ">>>" not in text and "{figure}" not in text and "{literalinclude}" not in text


# commands that CI runs: as a session, as a step of .ci/run, or in a test
RUN = (
    r"nox -s ([\w -]+)",
    r"pip install nox( && nox -s tests)?",
    r"pip install \.( && python -m bpengine train digits)?",
    r'pip install "(?:\.|bpengine)\[([\w,]+)\]"',
    r"(OPENBLAS_NUM_THREADS=1 )?python -m bpengine (train digits.*|predict .*|doctor|scale .*)",
    r"python benchmarks/perf.py (refresh|record|check --against main)",
    r"pytest benchmarks -k \"nielsen and bpengine\" --benchmark-(save=before|compare|json=times.json)",
    r"(OPENBLAS_NUM_THREADS=1 mpiexec -n 2 )?python (train|search).py",
    r"export (OPENBLAS_CORETYPE=SkylakeX|BPENGINE_BLAS_CORE=0)",
    r"git clone <your fork> && cd bpengine",
)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.stem
)
def test_a_command_is_run_by_ci_or_the_page_says_that_it_is_not(page):
    text = page.read_text(encoding="utf-8")
    commands = [
        line.partition("#")[0].strip()
        for block in re.findall(r"^```sh\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    in_ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    installed = str(project["dependency-groups"]) + (ROOT / "noxfile.py").read_text(encoding="utf-8")
    for command in commands:
        match = next(filter(None, (re.fullmatch(pattern, command) for pattern in RUN)), None)
        if match and command.startswith("nox"):
            match = all(f" {name}" in in_ci for name in match[1].split())
        elif match and "[" in command:
            match = all(re.search(rf"[\[,]{name}[\],]", installed) for name in match[1].split(","))
        assert match or "CI does not run" in text, command
