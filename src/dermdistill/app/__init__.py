"""The web app as static files: the built front end together with one bundle."""

from dermdistill.app.site import POLICY, build_site, write_site

__all__ = ["POLICY", "build_site", "write_site"]
