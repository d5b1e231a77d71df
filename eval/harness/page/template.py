"""A page that needs nothing else: templates, style sheets and scripts are this package's data and stand in it.

Every page extends `base.html.j2`, which forbids it to load anything, and has `common.css` and `common.js` before its own.
"""

from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup


def render_page(name: str, **values: object) -> str:
    """Return the page of `name`.html.j2, `name`.css and `name`.js. Every text among `values` is escaped."""
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    css, js = (Markup("".join(_source(f"{part}.{kind}") for part in ("common", name))) for kind in ("css", "js"))
    return environment.get_template(f"{name}.html.j2").render(css=css, js=js, **values)


def _source(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
