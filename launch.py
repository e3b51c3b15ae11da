"""The one command: make `.venv` beside this file, install what is missing, then hand over to the command line.

    python launch.py --help             what there is
    python launch.py doctor             what works on this machine, and what to do about what does not
    python launch.py --gpu doctor       the same with the GPU build of Paddle

Standard library only, and no syntax newer than Python 3.6: an old Python gets a sentence instead of a traceback.
"""

import os
import sys


def main():
    if sys.version_info < (3, 10):
        version = ".".join(str(part) for part in sys.version_info[:3])
        sys.stderr.write(
            "MixStudio needs Python 3.10 to 3.13, this is %s (%s).\n"
            "Install a newer one and start it with that, for example: python3.12 launch.py\n"
            % (version, sys.executable)
        )
        return 1
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from app.install import launch

    return launch(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
