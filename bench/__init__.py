# SPDX-License-Identifier: MIT
"""The benchmark: smarthost beside Postfix under the same load into the same sink. Run it with `make bench`."""
