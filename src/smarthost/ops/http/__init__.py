# SPDX-License-Identifier: MIT
"""The HTTP door: API, page, metrics and health probes, in the daemon's own loop; off unless `[http] listen` is set.

One file for each resource of the API; `page/` has what people see. Nothing here decides about mail: everything is asked
of `assemble.Relay` through `desk.Operated`. A slow or hostile client costs bounded memory and time, and never mail.
Needs the extra `http` (starlette, uvicorn, jinja2), which is imported by `service.open_http` alone, when it is wanted.
"""
