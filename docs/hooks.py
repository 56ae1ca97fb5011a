"""Hooks of mkdocs, which make of the pages here, as a forge shows them, the pages of the site.

The notebooks of examples/ become pages, with their outputs. Other files outside docs/ that pages link to are copied
into the site, so that every link of a page leads to a file of the site, and mkdocs checks it.
"""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

OUTSIDE = re.compile(r"\]\(\.\./([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the notebooks and the files outside docs/ that pages link to."""
    root = Path(config.config_file_path).parent
    linked = {path for file in files.documentation_pages() for path in OUTSIDE.findall(file.content_string)}
    for notebook in root.glob("examples/*.ipynb"):
        files.append(File.generated(config, f"examples/{notebook.stem}.md", content=as_page(notebook)))
    for path in sorted(path for path in linked if not path.endswith(".ipynb") and (root / path).is_file()):
        source = str(root / path)
        files.append(File.generated(config, path, abs_src_path=source, inclusion=InclusionLevel.INCLUDED))
    return files


def on_page_markdown(markdown: str, page: Page, **context: Any) -> str:
    """Return a page with its links as they are in the site, where docs/ is the root."""
    if page.file.src_uri.startswith("examples/"):
        return markdown.replace("](../docs/", "](../").replace(".ipynb)", ".md)")
    return OUTSIDE.sub(lambda link: f"]({link[1].replace('.ipynb', '.md')}", markdown)


def as_page(notebook: Path) -> str:
    """Return a notebook's texts, code and outputs as Markdown."""
    pieces = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        pieces.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", ())})
            html, text = ("".join(data.get(f"text/{kind}", ())) for kind in ("html", "plain"))
            if "image/png" in data:
                pieces.append(f"![a plot](data:image/png;base64,{''.join(data['image/png']).strip()})")
            elif html:  # tables without pandas' style, in the site's own
                pieces.append(re.sub(r"<table[^>]*>", "<table>", re.sub(r"<style.*?</style>", "", html, flags=re.S)))
            else:
                pieces.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(pieces)
