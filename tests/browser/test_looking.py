"""What looks at the pages sees what is wrong with one."""

from pathlib import Path

from tests.browser.looking import Looker

BAD = """<!doctype html><html><head><title>bad</title>
<meta http-equiv="Content-Security-Policy" content="script-src 'self'; img-src *; style-src 'self'"></head>
<body><script>var a = 1</script><p style="color: #777; background: #888">text</p><input>
<img src="http://elsewhere.invalid/x.png"></body></html>"""


def test_a_bad_page_is_found_to_be_bad(look: Looker, tmp_path: Path) -> None:
    look.folder = tmp_path / "pictures"
    page = look.window()
    page.route("http://elsewhere.invalid/**", lambda route: route.abort())
    page.route("http://localhost:1/", lambda route: route.fulfill(body=BAD, content_type="text/html"))
    page.goto("http://localhost:1/")
    look.over(page, "bad")
    said = "\n".join(look.faults)
    for word in ("elsewhere.invalid", "policy: script-src", "policy: style-src", "label", "image-alt", "html-has-lang"):
        assert word in said
    assert (look.folder / "bad.png").stat().st_size > 0


def test_a_good_page_is_not(look: Looker) -> None:
    page = look.window()
    good = (
        '<!doctype html><html lang="en"><head><title>good</title></head><body><main><h1>Good</h1></main></body></html>'
    )
    page.route("http://localhost:1/**", lambda route: route.fulfill(body=good, content_type="text/html"))
    look.visit(page, "http://localhost:1/good")
    assert look.faults == []
