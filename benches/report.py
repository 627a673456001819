"""What a run found, as text: prints it, writes it into the pages, or checks that they agree with it."""

from report.pages import main

if __name__ == "__main__":
    main()
