"""Cases from planted models, organisms, word lists, fact tables and aligned corpora, each with the controls that its source can give."""
