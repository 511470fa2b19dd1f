"""Turn a verdict into JUnit XML, so that a CI server shows each checker and each limit as a test.

Invalid is a failure, unknown is an error: the server turns red for both, and the reader sees which it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

# what XML 1.0 cannot hold, even escaped
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
KINDS = {"invalid": "failure", "unknown": "error"}


def to_junit(verdict: Mapping[str, Any]) -> str:
    """Return the XML of one verdict.

    Parameters
    ----------
    verdict
        The content of verdict.json.
    """
    suite = _suite(f"buslab.{verdict['scenario']}")
    for name, result in verdict["checkers"].items():
        lines = [*result["witnesses"], *result.get("warnings", ())]
        _case(suite, name=name, kind="checkers", verdict=result["verdict"], message=result["detail"], lines=lines)
    for name, why in verdict.get("not_measured", {}).items():
        case = ET.SubElement(suite, "testcase", classname=_text(f"{suite.get('name')}.checkers"), name=_text(name))
        ET.SubElement(case, "skipped", message=_text(f"not measured: {why}"))
    for limit in verdict["slo"]:
        _case(suite, name=limit["metric"], kind="slo", verdict=limit["verdict"], message=limit["detail"], lines=[])
    return _whole(suite)


def cases_to_junit(suite: str, kind: str, cases: Sequence[tuple[str, str, str]]) -> str:
    """Return the XML of plain cases: (name, verdict, sentence) each."""
    element = _suite(suite)
    for name, verdict, message in cases:
        _case(element, name=name, kind=kind, verdict=verdict, message=message, lines=[])
    return _whole(element)


def _suite(name: str) -> ET.Element:
    return ET.Element("testsuite", name=_text(name))


def _whole(suite: ET.Element) -> str:
    suite.set("tests", str(len(suite)))
    for word, attribute in {"failure": "failures", "error": "errors"}.items():
        suite.set(attribute, str(len(suite.findall(f"testcase/{word}"))))
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ET.Element, *, name: str, kind: str, verdict: str, message: str, lines: list[str]) -> None:
    case = ET.SubElement(suite, "testcase", classname=_text(f"{suite.get('name')}.{kind}"), name=_text(name))
    if verdict in KINDS:
        outcome = ET.SubElement(case, KINDS[verdict], message=_text(message), type=verdict)
        outcome.text = _text("\n".join([message, *lines]))
    else:
        ET.SubElement(case, "system-out").text = _text("\n".join([message, *lines]))


def _text(value: str) -> str:
    return _NOT_XML.sub("?", value)
