"""One picture as a page of its own: self-contained, with the policy and the look of every page of this package, and without plotly."""

from __future__ import annotations

from html import escape

from slm_interp.page import HEAD, asset, json_in_script, policy


def document(title: str, lead: str, body: str, script: str, data: str, style: str = "") -> str:
    """The whole page.

    Args:
        title: heading, and the name of the window.
        lead: a sentence or two under the heading.
        body: markup of the picture.
        script: which of the package's scripts draws it.
        data: JSON, which that script finds in the element `data`.
        style: beside that of all pages.
    """
    source = asset(script).replace("\r\n", "\n")
    return _DOCUMENT.format(
        policy=escape(policy([source])),
        title=escape(title),
        style=asset("page.css") + asset("picture.css") + style,
        lead=f"<p>{escape(lead)}</p>" if lead else "",
        body=body,
        data=json_in_script(data),
        script=source,
    )


def framed(page: str, height: int) -> str:
    """A page inside a notebook: a frame of its own, so that neither's styles and scripts reach the other."""
    inside = page.replace("&", "&amp;").replace('"', "&quot;")
    return f'<iframe srcdoc="{inside}" style="width:100%;height:{height}px;border:0" sandbox="allow-scripts" loading="lazy"></iframe>'


_DOCUMENT = (
    HEAD
    + """<body class="picture">
<header><h1>{title}</h1>{lead}</header>
<noscript><p class="note">This picture is drawn by a script inside the file. Allow scripts to see it.</p></noscript>
<main>{body}</main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
)
