package main

import (
	"sync"

	mlxrt "github.com/mlxrt/mlxrt/bindings/go"
)

// pool keeps sessions that nobody uses: the next turn of a chat finds there what is computed already.
type pool struct {
	model *mlxrt.Model
	limit int
	mu    sync.Mutex
	idle  []kept // The one that was used last comes last.
}

type kept struct {
	session *mlxrt.Session
	tokens  []int32
}

// take gives the session that has the most of the prompt, if it has most of its own tokens from there; a chat that only
// begins like another one does not take its session away, unless there is no room for one more.
func (p *pool) take(prompt []int32) (*mlxrt.Session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	best, most := -1, 0
	for i, k := range p.idle {
		if n := common(k.tokens, prompt); n > most && 2*n >= len(k.tokens) {
			best, most = i, n
		}
	}
	if best < 0 {
		if len(p.idle) < p.limit {
			return p.model.NewSession(nil)
		}
		best = 0
	}
	session := p.idle[best].session
	p.idle = append(p.idle[:best], p.idle[best+1:]...)
	return session, nil
}

// release takes a session back.
func (p *pool) release(session *mlxrt.Session) {
	tokens, err := session.Tokens()
	if err != nil || len(tokens) == 0 {
		session.Close()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, kept{session, tokens})
	if len(p.idle) > p.limit {
		p.idle[0].session.Close()
		p.idle = p.idle[1:]
	}
}

// common is how many tokens two lists begin with alike.
func common(a, b []int32) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}
