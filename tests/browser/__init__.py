"""The page of ``showdeps --format html`` in a real browser: Chromium without a window, driven by Selenium."""
