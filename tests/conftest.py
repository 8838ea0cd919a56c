"""What the tests of faults counted is shown at the end."""


def pytest_terminal_summary(terminalreporter):
    reports = [report for group in terminalreporter.stats.values() for report in group]
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if getattr(report, "when", "") == "call":
                terminalreporter.write_line(f"{name}: {value}")
