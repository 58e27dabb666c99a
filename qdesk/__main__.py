"""`python -m qdesk`, as `qdesk`."""

import sys

from qdesk import main

sys.exit(main())
