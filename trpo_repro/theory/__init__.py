"""The paper's theory, exact on finite Markov decision processes (Secs. 2-3, Apps. A-B)."""
