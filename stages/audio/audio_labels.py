"""AudioSet's labels in four groups: speech, singing, music, and everything else a sound effect.

Names are those of the AudioSet ontology (Gemmeke et al. 2017). What shouts or whispers words is
speech, what laughs or coughs is not; bells and chimes come from things more often than from music.
"""

from __future__ import annotations

from typing import Literal

AudioKind = Literal["speech", "music", "singing", "sound_effect", "silence"]

_SPEECH = """
Speech; Male speech, man speaking; Female speech, woman speaking; Child speech, kid speaking;
Conversation; Narration, monologue; Babbling; Speech synthesizer; Shout; Bellow; Yell;
Children shouting; Whispering; Hubbub, speech noise, speech babble
"""
_SINGING = """
Singing; Choir; Yodeling; Chant; Mantra; Male singing; Female singing; Child singing;
Synthetic singing; Rapping; Humming; A capella; Vocal music; Opera; Lullaby
"""
_MUSIC = """
Music; Musical instrument; Plucked string instrument; Guitar; Electric guitar; Bass guitar;
Acoustic guitar; Steel guitar, slide guitar; Tapping (guitar technique); Strum; Banjo; Sitar;
Mandolin; Zither; Ukulele; Keyboard (musical); Piano; Electric piano; Organ; Electronic organ;
Hammond organ; Synthesizer; Sampler; Harpsichord; Percussion; Drum kit; Drum machine; Drum;
Snare drum; Rimshot; Drum roll; Bass drum; Timpani; Tabla; Cymbal; Hi-hat; Wood block; Tambourine;
Rattle (instrument); Maraca; Gong; Tubular bells; Mallet percussion; Marimba, xylophone;
Glockenspiel; Vibraphone; Steelpan; Orchestra; Brass instrument; French horn; Trumpet; Trombone;
Bowed string instrument; String section; Violin, fiddle; Pizzicato; Cello; Double bass;
Wind instrument, woodwind instrument; Flute; Saxophone; Clarinet; Harp; Harmonica; Accordion;
Bagpipes; Didgeridoo; Shofar; Theremin; Singing bowl; Scratching (performance technique);
Pop music; Hip hop music; Beatboxing; Rock music; Heavy metal; Punk rock; Grunge; Progressive rock;
Rock and roll; Psychedelic rock; Rhythm and blues; Soul music; Reggae; Country; Swing music;
Bluegrass; Funk; Folk music; Middle Eastern music; Jazz; Disco; Classical music; Electronic music;
House music; Techno; Dubstep; Drum and bass; Electronica; Electronic dance music; Ambient music;
Trance music; Music of Latin America; Salsa music; Flamenco; Blues; Music for children;
New-age music; Music of Africa; Afrobeat; Christian music; Gospel music; Music of Asia;
Carnatic music; Music of Bollywood; Ska; Traditional music; Independent music; Song;
Background music; Theme music; Jingle (music); Soundtrack music; Video game music; Christmas music;
Dance music; Wedding music; Happy music; Funny music; Sad music; Tender music; Exciting music;
Angry music; Scary music
"""


def _names(text: str) -> frozenset[str]:
    return frozenset(" ".join(name.split()).casefold() for name in text.split(";"))


_GROUPS: dict[AudioKind, frozenset[str]] = {
    "speech": _names(_SPEECH),
    "singing": _names(_SINGING),
    "music": _names(_MUSIC),
    "silence": frozenset({"silence"}),
}


def kind_of(label: str) -> AudioKind:
    """The group that a label belongs to; one that is not known is a sound effect."""
    folded = label.strip().casefold()
    return next((kind for kind, names in _GROUPS.items() if folded in names), "sound_effect")
