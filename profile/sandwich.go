package profile

import "context"

// Sandwich is what calls one function and what it calls. In both trees the root stands for the function, and
// both roots have its total.
type Sandwich struct {
	// Callers is upside down: the root's children are the direct callers, theirs who called those. A node's
	// self value is that of stacks that begin there.
	Callers *Tree
	// Callees are what the function calls. The root's self value is what the function cost itself where it
	// was not called by itself: recursion is a child.
	Callees *Tree
	// Total is the sum of all stacks that have the function, each once; Self of those that end in it.
	Total, Self int64
}

// Sandwich cuts every stack of t that has a function of that name at the first of them, seen from the root, so
// that a stack with recursion counts once. Functions of equal name in other files are one. The error is the
// context's.
func (t *Tree) Sandwich(ctx context.Context, function string) (*Sandwich, error) {
	s := &Sandwich{}
	named := make([]bool, len(t.Frames))
	for i := 1; i < len(t.Frames); i++ {
		named[i] = t.Strings[t.Frames[i].Name] == function
	}
	callers, callees := newTreeBuilder(0), newTreeBuilder(0)
	var path []uint32   // the open nodes, without the root
	inside := uint32(0) // the end of the subtree of the function that is open
	for i := uint32(1); i < uint32(t.Len()); i++ {
		if i&pollMask == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		for len(path) > 0 && t.End[path[len(path)-1]] <= i {
			path = path[:len(path)-1]
		}
		if named[t.Frame[i]] {
			s.Self += t.Self[i]
			if i >= inside {
				inside = t.End[i]
				s.Total += t.Total[i]
				node := uint32(0)
				for k := len(path) - 1; k >= 0; k-- {
					node = callers.child(node, t.Frame[path[k]])
				}
				callers.self[node] += t.Total[i]
				callees.self[0] += t.Self[i]
				for c := range t.Children(i) {
					callees.graft(0, t, c, nil)
				}
			}
		}
		path = append(path, i)
	}
	s.Callers, s.Callees = callers.tree(t.Frames, t.Strings), callees.tree(t.Frames, t.Strings)
	s.Callers.Unit, s.Callees.Unit = t.Unit, t.Unit
	return s, nil
}
