#!/usr/bin/env bash
# Drops ctest's two lines for each test that passed; failures and the summary stay.
grep -vE '^ *(Start +[0-9]+:|[0-9]+/[0-9]+ Test +#[0-9]+: .* Passed )' || true
