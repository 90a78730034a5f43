"""`python -m captioner`: the console command, where its script is not on PATH."""

from captioner.cli.app import app

if __name__ == "__main__":
    app(prog_name="captioner")
